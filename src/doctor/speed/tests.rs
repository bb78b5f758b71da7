use super::super::Status;
use super::super::testing::assert_check;
use super::*;

#[test]
fn the_guests_line_is_read_wherever_it_stands() {
    let expected = Some(Mips { cpl0: 0.52, cpl3: 2480.1 });
    for output in [
        "mips cpl0=0.52 cpl3=2480.10",
        "mips cpl0=0.52 cpl3=2480.10\r\n",
        "hello\r\nmips unknown: nothing tells\r\nmips cpl0=0.52 cpl3=2480.10\r\nmips cpl0=1.00 cpl3=1.00",
    ] {
        assert_eq!(Mips::parse(output), expected, "{output:?}");
    }
}

#[test]
fn no_other_line_is_taken_for_it() {
    for output in [
        "",
        "mips",
        "mips ",
        "mips unknown: nothing tells the TSC's frequency",
        "mips cpl0=0.52",
        "mips cpl3=2480.10 cpl0=0.52",
        "mips cpl0= cpl3=",
        "mips cpl0=. cpl3=.",
        "mips cpl0=nan cpl3=inf",
        "mips cpl0=-1.00 cpl3=2.00",
        "mips cpl0=+1.00 cpl3=2.00",
        "mips cpl0=1e300 cpl3=2.00",
        "mips cpl0=1.2.3 cpl3=2.00",
        "mips cpl0=99999999999999999 cpl3=2.00",
        "mips cpl0=0.52 cpl3=2480.10 more",
        "mips  cpl0=0.52 cpl3=2480.10",
        "amips cpl0=0.52 cpl3=2480.10",
        "mips cpl0=\u{661}.0 cpl3=2.00",
        "mips cpl0=0.52 cpl3=2480.10\0",
        "mips cpl0=\u{fffd} cpl3=\u{1b}[2J",
    ] {
        assert_eq!(Mips::parse(output), None, "{output:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic_and_gives_real_numbers(
        output in "(mips |cpl0=|cpl3=|[0-9.]{1,20}| |\r\n|\\PC){0,12}",
    ) {
        if let Some(mips) = Mips::parse(&output) {
            proptest::prop_assert!(mips.cpl0.is_finite() && mips.cpl0 >= 0.0);
            proptest::prop_assert!(mips.cpl3.is_finite() && mips.cpl3 >= 0.0);
            check(Some(&Ok(mips)));
        }
    }
}

#[test]
fn verdicts_follow_from_both_speeds() {
    let of = |cpl0, cpl3| check(Some(&Ok(Mips { cpl0, cpl3 })));
    assert_check(&of(2400.0, 2500.0), Status::Ok, "native: 2400 MIPS at CPL 0, 2500 at CPL 3", "");
    assert_check(&of(200.0, 3900.0), Status::Ok, "native", "");
    assert_check(&of(200.0, 4100.0), Status::Warn, "interpreted", "VT-x");
    assert_check(&of(49.0, 900.0), Status::Warn, "interpreted", "VT-x");
    let check = of(0.52, 2480.1);
    assert_check(&check, Status::Warn, "interpreted: 0.52 MIPS at CPL 0, 2480 at CPL 3", "resources/linux");
    assert!(check.cost.unwrap().contains("4800 times slower"));
    assert!(of(0.0, 2500.0).cost.unwrap().contains("250000 times slower"), "no division by zero");
    assert_check(&of(30.0, 40.0), Status::Warn, "slow: 30.00 MIPS at CPL 0, 40.00", "processor time");
    assert_check(&of(0.0, 0.0), Status::Warn, "slow", "processor time");
}

#[test]
fn interpretation_is_known_without_the_check() {
    assert!(Mips { cpl0: 0.5, cpl3: 2500.0 }.kernel_is_interpreted());
    assert!(!Mips { cpl0: 2500.0, cpl3: 2500.0 }.kernel_is_interpreted());
    assert!(!Mips { cpl0: 0.5, cpl3: 0.5 }.kernel_is_interpreted(), "all alike slow");
}

#[test]
fn a_guest_that_does_not_run_stops_everything_and_one_that_was_not_tried_nothing() {
    let ended = "vCPU 0 failed\n  rip 0x1000\n\n  add yourself";
    let check = |error| super::check(Some(&Err(error)));
    assert_check(
        &check(Error::Ended(ended.to_owned())),
        Status::Missing,
        "vCPU 0 failed; rip 0x1000; add",
        "run -v",
    );
    assert_check(&check(Error::Late), Status::Missing, "within 10 seconds", "run -v");
    assert_check(&check(Error::Hung), Status::Missing, "within 15 seconds", "run -v");
    assert_check(&check(Error::Untold), Status::Unknown, "measured nothing", "");
    assert_check(&super::check(None), Status::Unknown, "not measured", "");
}

#[test]
fn a_machine_that_cannot_be_built_tells_the_whole_reason_once() {
    let call = crate::hypervisor::Error::Call {
        call: "KVM_CREATE_VM",
        source: vmm_sys_util::errno::Error::new(libc::EBUSY),
    };
    let error = Error::Build(Box::new(machine::Error::Hypervisor(call)));
    let text = error.to_string();
    assert!(text.starts_with("KVM_CREATE_VM failed: "), "{text}");
    assert_eq!(text.matches("busy").count(), 1, "{text}");
}

#[test]
fn ratios_have_two_digits_that_count() {
    for (ratio, expected) in [(25.4, "25"), (99.6, "100"), (123.0, "120"), (4769.2, "4800"), (9.0, "9")] {
        assert_eq!(rounded(ratio), expected);
    }
}

#[test]
fn the_capture_is_bounded() {
    let mut capture = Capture::default();
    assert_eq!(capture.write(&vec![b'x'; OUTPUT_MAX + 7]).unwrap(), OUTPUT_MAX + 7);
    assert_eq!(capture.write(b"more").unwrap(), 4);
    assert_eq!(capture.0.lock().unwrap().len(), OUTPUT_MAX);
}

#[test]
fn guests_that_hang_crash_or_say_nothing_are_told_apart() {
    let Some(hypervisor) = crate::testing::hypervisor() else { return };
    let run = |words, limit| run(hypervisor.clone(), words, Duration::from_millis(limit));
    for words in ["spin", "spin=cpl0", "halt", "flood"] {
        assert!(matches!(run(words, 200), Err(Error::Late)), "{words}");
    }
    assert!(matches!(run("fault=triple", 60_000), Err(Error::Ended(_))));
    assert!(matches!(run("hello", 60_000), Err(Error::Untold)));
    let mips = run("mips", 60_000).unwrap();
    assert!(mips.cpl3 > 0.0, "{mips:?}");
}
