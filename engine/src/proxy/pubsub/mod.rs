//! Publish and subscribe: `clients` takes their commands, `nodes` keeps what follows from them
//! subscribed where it has to be, `publish` sends messages off, `introspect` tells who is subscribed.

mod clients;
mod introspect;
mod nodes;
mod publish;
