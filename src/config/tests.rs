use super::*;
use crate::virtio::block::config::Disk;
use crate::virtio::entropy::config::Entropy;

#[test]
fn sizes_are_read_and_written_alike() {
    let table = [
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("512MiB", 512 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("4K", 4096),
        ("4096", 4096),
        ("0", 0),
        ("7B", 7),
    ];
    for (word, bytes) in table {
        assert_eq!(word.parse(), Ok(Size::new(bytes)), "{word}");
        let written = String::from(Size::new(bytes));
        assert_eq!(written.parse(), Ok(Size::new(bytes)), "{written}");
    }
    assert_eq!(Size::mib(1536).to_string(), "1536M");
    for word in ["", "M", "-1M", "1.5G", "1X", "1MM", "1iB", "12 M", "99999999999T", "0x10"] {
        assert!(word.parse::<Size>().is_err(), "{word}");
    }
}

#[test]
fn a_configuration_survives_toml_and_json() {
    let config = MachineConfig {
        cpus: 3,
        memory: Size::gib(2),
        kernel: Some("vmlinux".into()),
        initrd: Some("initramfs.cpio".into()),
        cmdline: "quiet".into(),
        bare_cmdline: true,
        boot: BootMode::Linux64,
        console: Console::File("log".into()),
        devices: Devices {
            disk: vec![Disk { readonly: true, ..Disk::new("disk.img") }],
            entropy: vec![Entropy::default()],
            ..Devices::default()
        },
        stats: true,
    };
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<MachineConfig>(&text).unwrap(), config, "{text}");
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<MachineConfig>(&text).unwrap(), config, "{text}");
}

#[test]
fn a_file_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let chain = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = MachineConfig::from_file(&path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        format!("{error}: {source}")
    };
    let unknown = chain("a.toml", "cpus = 2\ncpuz = 3\n");
    assert!(
        unknown.contains("a.toml") && unknown.contains("line 2") && unknown.contains("cpuz"),
        "{unknown}"
    );
    let wrong = chain("b.toml", "memory = \"lots\"\n");
    assert!(wrong.contains("'lots' is no size"), "{wrong}");
    let json = chain("c.JSON", "{\"cpus\": 2, \"cpuz\": 1}");
    assert!(json.contains("JSON") && json.contains("cpuz"), "{json}");
    let missing = MachineConfig::from_file(&folder.path().join("none.toml")).unwrap_err();
    assert!(matches!(missing, Error::Read { .. }));
}

macro_rules! check_help {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        #[test]
        fn every_key_of_a_device_is_documented() {
            $(
                let error = parse_options::<$config>("nonsense").unwrap_err().to_string();
                let keys: Vec<_> = error.split('`').skip(3).step_by(2).collect();
                assert!(!keys.is_empty(), "{error}");
                for key in keys {
                    assert!(<$config as DeviceConfig>::HELP.contains(key), "{} {key}", stringify!($name));
                }
            )*
        }
    };
}
with_devices!(check_help);

#[test]
fn limits_are_checked() {
    let with = |change: fn(&mut MachineConfig)| {
        let mut config = MachineConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    MachineConfig::default().validate().unwrap();
    assert_eq!(with(|c| c.cpus = 0), "0 vCPUs: give 1 to 255");
    assert_eq!(with(|c| c.cpus = 256), "256 vCPUs: give 1 to 255");
    assert_eq!(with(|c| c.memory = Size::new(1)), "1 bytes of memory: give 16M to 32T, for example 512M");
    assert_eq!(
        with(|c| c.memory = Size::new((16 << 20) + 1)),
        "16777217 bytes of memory is not a multiple of 4K"
    );
    assert!(with(|c| c.memory = Size::new(u64::MAX)).contains("give 16M to 32T"));
    assert_eq!(
        with(|c| c.initrd = Some("i".into())),
        "an initrd needs a kernel: the embedded guest takes none"
    );
    assert_eq!(
        with(|c| c.cmdline = "a\nb".into()),
        "the kernel command line has a control character at byte 1"
    );
}

#[test]
fn words_for_modes_and_consoles_are_strict() {
    for word in ["stdio", "off", "pty", "file:a b"] {
        assert_eq!(word.parse::<Console>().unwrap().to_string(), word);
    }
    for word in ["", "tty", "file:", "File:a"] {
        assert!(word.parse::<Console>().is_err(), "{word}");
    }
    for word in ["auto", "pvh", "linux64"] {
        assert_eq!(word.parse::<BootMode>().unwrap().to_string(), word);
    }
    assert!("bios".parse::<BootMode>().is_err());
}
