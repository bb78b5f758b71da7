use super::*;

#[test]
fn the_burst_at_the_start_does_not_count() {
    let said = |line: &str| Said::parse(line, "blk").unwrap();
    let [bytes, requests] = &LIMITS;
    let two_seconds = said("blk op=seqread n=2064 bytes=135266304 ns=2000000000 errors=0");
    assert_eq!(bytes.passed(&two_seconds).unwrap(), 1.0);
    let too_much = said("blk op=randread n=10100 bytes=41369600 ns=1000000000 errors=0");
    assert_eq!(requests.passed(&too_much).unwrap(), 2.0);
}
