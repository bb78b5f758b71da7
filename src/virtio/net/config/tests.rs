use super::*;
use crate::config::parse_options;

fn net(word: &str) -> Net {
    parse_options(word).unwrap()
}

#[test]
fn words_become_a_configuration() {
    assert_eq!(net("").tap_name(), None);
    assert_eq!(net("tap").tap_name(), None);
    assert_eq!(net("tap=tap0").tap_name(), Some("tap0"));
    let all = net(
        "tap=tap0,mac=52:54:00:12:34:56,mtu=9000,queues=4,rate=10M/2000,offload=off,ip=10.0.0.1/24,id=lan,iothread=io",
    );
    assert_eq!((all.id(), all.iothread()), (Some("lan"), Some("io")));
    assert_eq!(all.mac.unwrap().octets(), [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!((all.mtu, all.queues, all.offload), (Some(9000), 4, false));
    assert_eq!(all.ip.unwrap().mask(), Ipv4Addr::new(255, 255, 255, 0));
    assert_eq!(all.check(), Ok(()));
    let text = toml::to_string(&all).unwrap();
    assert_eq!(toml::from_str::<Net>(&text).unwrap(), all);
    assert_eq!(net("fd=7").fd, Some(7));
    assert!(net("tap").offload);
}

#[test]
fn what_makes_no_sense_is_one_clear_line() {
    let cases = [
        ("tap=a-name-that-is-too-long", "'a-name-that-is-too-long' is longer than 15 bytes"),
        ("tap=a/b", "'a/b' is no name of an interface"),
        ("tap=tap%d", "no name of an interface"),
        ("tap=..", "no name of an interface"),
        ("queues=0", "queues=0: give 1 to 8"),
        ("queues=9", "queues=9: give 1 to 8"),
        ("queues=-1", "queues=-1"),
        ("mtu=67", "mtu=67: give 68 to 65535"),
        ("mtu=65536", "mtu=65536"),
        ("mac=52:54:00:12:34", "'52:54:00:12:34' is no Ethernet address: give six bytes"),
        ("mac=52:54:00:12:34:+6", "no Ethernet address"),
        ("mac=01:00:5e:00:00:01", "'01:00:5e:00:00:01' is a multicast address"),
        ("mac=0:0:0:0:0:0", "no Ethernet address"),
        ("mac=00:00:00:00:00:00", "nobody's address"),
        ("ip=10.0.0.1", "'10.0.0.1' is no address in a network"),
        ("ip=10.0.0.1/33", "give an IPv4 address and its prefix, for example 10.0.0.1/24"),
        ("ip=0.0.0.0/8", "no address in a network"),
        ("fd=7,tap=tap0", "give tap or fd, not both"),
        ("fd=7,ip=10.0.0.1/24", "ip needs tap"),
        ("fd=7,queues=2", "queues needs tap"),
        ("rate=fast", "'fast' is no rate"),
        ("offload=some", "offload=some: give on or off"),
        ("bridge=br0", "unknown field `bridge`"),
    ];
    for (word, expected) in cases {
        let error = match parse_options::<Net>(word) {
            Ok(net) => net.check().unwrap_err(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{word}: {error}");
        assert!(!error.contains('\n'), "{word}: {error}");
    }
}

#[test]
fn masks_and_random_addresses() {
    let mask = |word: &str| word.parse::<HostAddress>().unwrap().mask().to_bits();
    assert_eq!(mask("10.0.0.1/32"), u32::MAX);
    assert_eq!(mask("10.0.0.1/1"), 1 << 31);
    let mac = Mac::local(0x0000_0504_0302_01ff);
    assert_eq!(mac.to_string(), "02:ff:01:02:03:04");
    assert_eq!(mac.to_string().parse(), Ok(mac));
}
