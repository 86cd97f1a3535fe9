//! The behaviour of the device: it works, it fails, or it lies.

/// How a [`Disk`](crate::disk::Disk) handles its requests. Reads always succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// It works.
    #[default]
    Sound,
    /// Some requests fail with EIO.
    Fails(Failure),
    /// It reports each flush as done and does nothing. So a power cut may lose everything that was written.
    Lies,
}

/// The requests that fail with EIO. A write that fails does not reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub request: Request,
    /// How many requests of this kind succeed before one fails.
    pub after: usize,
    pub lasting: Lasting,
}

/// The requests that a written device gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Write,
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// One request fails, and the next ones succeed.
    Once,
    /// From then on every request of this kind fails.
    FromThenOn,
}

impl Failure {
    /// Whether a request fails after `before` earlier ones of its kind.
    fn is(self, request: Request, before: usize) -> bool {
        let is_its_turn = match self.lasting {
            Lasting::Once => before == self.after,
            Lasting::FromThenOn => before >= self.after,
        };
        request == self.request && is_its_turn
    }
}

/// What happens to a request.
pub(crate) enum Answer {
    Done,
    Failed,
    /// It is reported as done, but it is not.
    Dropped,
}

/// A device, and how many requests it has received.
#[derive(Default)]
pub(crate) struct Requests {
    device: Device,
    writes: usize,
    flushes: usize,
    pub(crate) failed: usize,
}

impl Requests {
    pub(crate) fn of(device: Device) -> Self {
        Requests { device, ..Requests::default() }
    }

    pub(crate) fn answer(&mut self, request: Request) -> Answer {
        let count = match request {
            Request::Write => &mut self.writes,
            Request::Flush => &mut self.flushes,
        };
        let before = *count;
        *count += 1;
        match self.device {
            Device::Fails(failure) if failure.is(request, before) => {
                self.failed += 1;
                Answer::Failed
            }
            Device::Lies if request == Request::Flush => Answer::Dropped,
            Device::Sound | Device::Fails(_) | Device::Lies => Answer::Done,
        }
    }
}
