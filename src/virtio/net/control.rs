//! The control queue (VIRTIO 1.2, section 5.1.6.5).

use super::features;
use crate::virtio::{Chain, Cursor};

/// Answers.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// Commands: their class and number.
const VQ_PAIRS_SET: [u8; 2] = [4, 0];
const GUEST_OFFLOADS_SET: [u8; 2] = [5, 0];

/// What a driver may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To use so many queue pairs.
    Pairs(u16),
    /// To have these offloads for received frames.
    Offloads(u64),
}

/// The command in a chain; none if it is not one that this driver may give.
pub(super) fn parse(request: &mut Cursor<'_, '_>, negotiated: u64, most: u16) -> Option<Command> {
    let command: [u8; 2] = request.read_obj()?;
    match command {
        VQ_PAIRS_SET if negotiated & features::MQ != 0 => {
            let pairs = u16::from_le_bytes(request.read_obj()?);
            (1..=most).contains(&pairs).then_some(Command::Pairs(pairs))
        }
        GUEST_OFFLOADS_SET if negotiated & features::CTRL_GUEST_OFFLOADS != 0 => {
            let offloads = u64::from_le_bytes(request.read_obj()?);
            let allowed = features::guest_offloads(negotiated);
            (offloads & !allowed == 0).then_some(Command::Offloads(offloads))
        }
        _ => None,
    }
}

/// Serves one request; how many bytes of an answer there are.
pub(super) fn serve(chain: &Chain<'_>, negotiated: u64, most: u16, act: impl FnOnce(Command) -> bool) -> u32 {
    let done = parse(&mut chain.readable(), negotiated, most).is_some_and(act);
    let answer = if done { OK } else { ERROR };
    u32::from(chain.writable().write_obj(&answer).is_ok())
}
