//! What a client can do beside sending commands to keys. Each feature owns its state and stands on
//! [`Exchange`](crate::exchange::Exchange); none knows of another one. What concerns several of
//! them is seen to in [`crate::proxy`].

pub(crate) mod faults;
pub(crate) mod identities;
pub(crate) mod pubsub;
pub(crate) mod tracking;
pub(crate) mod transactions;
