use super::*;

/// A stream on which somebody has written this, and closed it.
fn written(bytes: &[u8]) -> UnixStream {
    let (stream, mut other) = UnixStream::pair().unwrap();
    other.write_all(bytes).unwrap();
    stream
}

#[test]
fn the_last_byte_is_the_one_that_is_not_zero() {
    assert_eq!(take(&mut written(&[0, 0, LAST])).unwrap(), 3.0);
    assert_eq!(take(&mut written(&[0, 0])).unwrap(), 2.0, "without one, the end counts");
    let (mut stream, mut open) = UnixStream::pair().unwrap();
    open.write_all(&[0, LAST]).unwrap();
    assert_eq!(take(&mut stream).unwrap(), 2.0);
    assert_eq!(open.read(&mut [0]).unwrap(), 0, "the sender sees that all of it was read");
}

#[test]
fn all_that_is_given_arrives() {
    let (taken, given) =
        paired(|mut guest| take(&mut guest), |mut host| give(&mut host, Duration::from_millis(5))).unwrap();
    assert_eq!(taken, given);
    assert!(given >= f64::from(u32::try_from(CHUNK).unwrap()));
}

#[test]
fn a_message_comes_back_or_it_is_an_error() {
    let none = Duration::ZERO;
    let ((), trip) = paired(|mut guest| echo(&mut guest), |mut host| round_trip(&mut host, none)).unwrap();
    assert!(trip > 0.0);
    let other = |mut guest: UnixStream| Ok(guest.write_all(&[7; MESSAGE])?);
    assert!(paired(other, |mut host| round_trip(&mut host, none)).is_err());
}

#[test]
fn the_floor_goes_every_way() {
    for way in Way::ALL {
        assert!(between_threads(way, Duration::from_millis(2)).unwrap() > 0.0, "{way:?}");
    }
}
