//! Publish and subscribe: `clients` takes their commands, `nodes` keeps what follows from them
//! subscribed where it has to be, `publish` sends messages off.

mod clients;
mod nodes;
mod publish;
