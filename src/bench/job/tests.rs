use super::*;

#[test]
fn a_job_says_its_numbers_in_its_last_line() {
    let output = "hello\r\nblk op=randread n=1 bytes=2 ns=3 errors=0\r\nblk op=seqread n=50 bytes=204800 ns=500000000 errors=0\r\nbye\r\n";
    let said = Said::parse(output, "blk").unwrap();
    assert_eq!(said.number("n").unwrap(), 50.0);
    assert_eq!(said.a_second("n").unwrap(), 100.0);
    assert_eq!(said.a_second("bytes").unwrap(), 409_600.0);
    assert!(said.number("kicks").is_err());
    assert!(said.number("op").is_err());
}

#[test]
fn no_result_is_no_result() {
    assert!(Said::parse("blk op=randread error: no such device\r\n", "blk").is_none());
    assert!(Said::parse("net op=send n=1 ns=1\r\n", "blk").is_none());
    let said = Said::parse("net op=recv n=0 bytes=0 ns=0", "net").unwrap();
    assert!(said.a_second("n").is_err(), "nothing in no time is no rate");
}
