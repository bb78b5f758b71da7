//! The options for virtio devices: one for each line of the table of devices.

use anyhow::Context;
use clap::Args;

use crate::config::{Devices, parse_options, with_devices};

macro_rules! define {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// The options of the devices; each can be given several times.
        #[derive(Args, Debug, Default)]
        pub(super) struct DeviceArgs {
            $(
                #[doc = $help]
                #[arg(
                    long,
                    value_name = "KEY=VALUE,..",
                    num_args = 0..=1,
                    default_missing_value = "",
                    value_parser = parse_options::<$config>,
                )]
                $name: Vec<$config>,
            )*
        }

        impl DeviceArgs {
            /// The devices of a configuration file; those of a kind that is on the command line are
            /// replaced.
            pub(super) fn over(self, base: Devices) -> Devices {
                Devices { $($name: if self.$name.is_empty() { base.$name } else { self.$name },)* }
            }
        }
    };
}
with_devices!(define);

macro_rules! templates {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// The same options for many machines, each of which puts its number where there is a `{}`.
        #[derive(Args, Debug, Default)]
        pub(super) struct DeviceTemplates {
            $(
                #[doc = $help]
                #[arg(long, value_name = "KEY=VALUE,..", num_args = 0..=1, default_missing_value = "")]
                $name: Vec<String>,
            )*
        }

        impl DeviceTemplates {
            /// The devices of the machine with this number, in the place of others of their kinds.
            pub(super) fn over(&self, base: Devices, number: usize) -> anyhow::Result<Devices> {
                Ok(Devices {
                    $($name: if self.$name.is_empty() {
                        base.$name
                    } else {
                        let parse = |words: &String| {
                            let words = words.replace("{}", &number.to_string());
                            let option = stringify!($name).replace('_', "-");
                            parse_options::<$config>(&words).with_context(|| format!("--{option} {words}"))
                        };
                        self.$name.iter().map(parse).collect::<anyhow::Result<_>>()?
                    },)*
                })
            }
        }
    };
}
with_devices!(templates);

macro_rules! counts {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// Checks that there are as many devices of each kind as a saved machine had.
        pub(super) fn check_counts(saved: &Devices, given: &Devices) -> anyhow::Result<()> {
            for (name, had, has) in [$((stringify!($name), saved.$name.len(), given.$name.len()),)*] {
                if had != has {
                    let option = name.replace('_', "-");
                    anyhow::bail!(
                        "--{option} is given {has} times, and the saved machine had {had} of it: give as many, \
                         or leave it out to keep them as they were"
                    );
                }
            }
            Ok(())
        }
    };
}
with_devices!(counts);

macro_rules! keys {
    ($($name:ident: $config:ty, $help:literal;)*) => {
        /// The keys of every device.
        pub(super) fn keys() -> String {
            let mut text = String::from("Keys of the devices, with commas between (a comma in a value is written twice):\n");
            $(
                let option = stringify!($name).replace('_', "-");
                text += &format!("\n--{option}\n{}\n", <$config as crate::config::DeviceConfig>::HELP);
            )*
            text
        }
    };
}
with_devices!(keys);
