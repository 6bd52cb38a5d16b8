//! The process group of one running program.

use super::warden::Warden;
use rustix::process::{Pid, Signal, kill_process_group};

/// Ends the group, at the latest when it is dropped.
pub(super) struct Group {
    id: Option<Pid>,
    warden: Warden,
}

impl Group {
    /// The group that `child` was started as the leader of.
    pub(super) fn of(child: &std::process::Child, warden: &Warden) -> Group {
        warden.begin(child.id());
        Group { id: Pid::from_raw(child.id().cast_signed()), warden: warden.clone() }
    }

    /// Asks all of it to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends all of it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // That nobody is left is as good as done.
        let _ = self.id.map(|id| kill_process_group(id, signal));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if let Some(id) = self.id {
            self.warden.end(id.as_raw_nonzero().get().cast_unsigned());
        }
    }
}
