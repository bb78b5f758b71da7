use clap::Parser;

use super::*;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    fork: Fork,
}

fn fork(words: &str) -> Fork {
    Only::try_parse_from(["fork"].into_iter().chain(words.split(' '))).unwrap().fork
}

#[test]
fn names_have_numbers() {
    let names = |words: &str| {
        let names = fork(words).names().map_err(|error| error.to_string())?;
        Ok::<_, String>(names.iter().map(|name| name.as_ref().map(Name::to_string)).collect::<Vec<_>>())
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(names("s --count 2"), Ok(vec![None, None]));
    assert_eq!(names("s --count 2 --name web-{}"), Ok(vec![some("web-0"), some("web-1")]));
    assert_eq!(names("s --count 1 --name web"), Ok(vec![some("web")]));
    for (words, expected) in [
        ("s --count 2 --name web", "put a {} where the number is to be, as in web-{}"),
        ("s --count 2 --name w/{}", "'w/0' is no name"),
    ] {
        let error = names(words).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_console_is_for_each() {
    let error = |words: &str| fork(words).check_console().map_err(|error| error.to_string());
    for right in [
        "s --count 2",
        "s --count 2 --console file:{}.log",
        "s --count 1 --console file:log",
        "s --count 2 --console off",
    ] {
        assert_eq!(error(right), Ok(()), "{right}");
    }
    for wrong in ["s --count 2 --console file:log", "s --count 2 --console stdio"] {
        assert!(error(wrong).unwrap_err().contains("--console"), "{wrong}");
    }
}

#[test]
fn what_can_be_no_name_is_a_path() {
    for (word, expected) in [
        ("web", Source::Either("web".parse().unwrap())),
        ("web.snap", Source::Either("web.snap".parse().unwrap())),
        ("./web", Source::Directory("./web".into())),
        ("-", Source::Directory("-".into())),
    ] {
        assert_eq!(word.parse(), Ok(expected));
    }
}

#[test]
fn devices_have_numbers() {
    let fork = fork("s --count 3 --vsock cid=1{},uds=v-{}.sock --entropy");
    let devices = fork.devices.over(crate::config::Devices::default(), 2).unwrap();
    assert_eq!((devices.vsock[0].cid, devices.vsock[0].uds.to_str()), (12, Some("v-2.sock")));
    assert_eq!((devices.vsock.len(), devices.entropy.len(), devices.net.len()), (1, 1, 0));
    let wrong = super::Fork {
        devices: Only::try_parse_from(["f", "s", "--count=1", "--vsock", "cid=x"]).unwrap().fork.devices,
        ..fork
    };
    let error = wrong.devices.over(crate::config::Devices::default(), 0).unwrap_err();
    assert_eq!(error.to_string(), "--vsock cid=x");
}

#[test]
fn there_are_limits() {
    for (word, expected) in [("1", Ok(1)), ("10000", Ok(MOST))] {
        assert_eq!(count(word), expected);
    }
    for word in ["0", "-1", "10001", "100000", "x", ""] {
        assert!(count(word).unwrap_err().contains("10000"), "{word}");
    }
}
