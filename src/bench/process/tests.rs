use super::*;

fn shell(script: &str) -> Command {
    command(Path::new("sh"), &["-c".into(), script.into()])
}

#[test]
fn a_text_is_counted_wherever_it_is() {
    assert_eq!(count(b"flood 1\r\nflood 2\r\nflo", "flood"), 2);
    assert_eq!(count(b"flo", "flood"), 0);
    assert_eq!(count(b"", "flood"), 0);
}

#[test]
fn a_program_is_waited_for_until_it_has_printed_enough_and_ended_after_that() {
    let mut command = shell("echo one; echo two; exec sleep 1000");
    let (running, took) = Running::start_until(&mut command, |printed| count(printed, "\n") == 2).unwrap();
    assert!(took > Duration::ZERO);
    let status = format!("/proc/{}", running.id());
    assert!(Path::new(&status).exists());
    drop(running);
    assert!(!Path::new(&status).exists(), "it is still there");
    let error = Running::start_until(&mut shell("echo one"), |printed| count(printed, "\n") == 2);
    assert!(error.err().unwrap().to_string().contains("ended after \"one\\n\""));
}

#[test]
fn what_is_typed_when_a_program_is_ready_reaches_it() {
    type_to(&mut shell("echo ready; read word; test $word = go"), "ready", b"go\n").unwrap();
    assert!(type_to(&mut shell("echo ready; read word; test $word = go"), "ready", b"no\n").is_err());
}
