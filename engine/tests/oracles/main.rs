//! What we read of commands and replies, against another scanner, and against what is known of
//! bytes by how they were made. A real server is asked in testbed/tests/live: command_table.rs and
//! slots.rs.

mod command_properties;
mod resp_oracle;
