//! What we read of commands and replies, against others who read the same: a real server, another scanner, and what is
//! known of bytes by how they were made.

mod command_keys_live;
mod command_properties;
mod resp_oracle;
mod slots_live;
