//! How far something is that takes long: a bar on the terminal at standard error, or nothing.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left";

/// A bar, once there is something to show. It is gone when this is.
pub(super) struct Progress {
    what: &'static str,
    wanted: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of what is done: a word.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, wanted: io::stderr().is_terminal(), bar: None }
    }

    /// So many bytes of so many are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if !self.wanted || total == 0 {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // Without its style a bar is a plainer one.
            let style = ProgressStyle::with_template(TEMPLATE);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_prefix(self.what).with_style(style.progress_chars("=> "))
        });
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
