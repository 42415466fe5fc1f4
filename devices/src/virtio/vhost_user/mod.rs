//! vhost-user: a virtio device whose queues another process works on. The two talk over a Unix
//! socket, on which the machine hands over guest memory, the queues' places and event descriptors.

pub mod backend;
pub mod frontend;
#[cfg(test)]
mod tests;
