//! Users and databases of the model.

use std::collections::BTreeMap;

use slotmesh_engine::resp::{RequestFrame, encode};

/// What nodes know of users and databases.
#[derive(Default)]
pub struct Acl {
    /// Users, by name, with what they may not do; empty: anybody may do anything.
    pub users: BTreeMap<String, User>,
    /// Databases beside the first.
    pub databases: i64,
    /// Every command with who said it, and where: `alice/0 GET a`.
    pub said: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct User {
    /// `None`: for the default user, that it needs none.
    pub password: Option<String>,
    pub denied: Vec<String>,
}

/// As whom a connection is known, and which database it has selected.
#[derive(Default)]
pub struct Account {
    user: Option<String>,
    database: i64,
}

impl Acl {
    /// Lets the default user and two others in.
    pub fn fill(&mut self) {
        for name in ["default", "alice", "bob"] {
            let password = Some(format!("{name}-secret"));
            self.users.insert(name.to_owned(), User { password, denied: Vec::new() });
        }
    }

    /// Forbids a user a command.
    pub fn deny(&mut self, user: &str, command: &str) {
        self.users.get_mut(user).unwrap().denied.push(command.to_owned());
    }

    /// Answers what is about users and databases, or what the user may not do. Returns `false` for
    /// all else.
    pub fn answer(
        &mut self,
        account: &mut Account,
        frame: &RequestFrame<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let words: Vec<_> = frame.args().map(|arg| String::from_utf8_lossy(arg)).collect();
        let name = words[0].to_ascii_uppercase();
        if !self.users.is_empty() && name == "AUTH" {
            let user = if words.len() == 3 { &words[1] } else { "default" };
            let password = words.last().map(ToString::to_string);
            match self.users.get(user).filter(|user| user.password == password) {
                Some(_) => {
                    account.user = Some(user.to_owned());
                    encode::simple(out, b"OK");
                }
                None => {
                    let text = b"WRONGPASS invalid username-password pair or user is disabled.";
                    encode::error(out, text);
                }
            }
            return true;
        }
        let default_needs_none =
            self.users.get("default").is_none_or(|user| user.password.is_none());
        if account.user.is_none() && default_needs_none {
            account.user = Some("default".to_owned());
        }
        let Some(user) = &account.user else {
            let text = match &name[..] {
                "HELLO" => "NOAUTH HELLO must be called with the client already authenticated",
                _ => "NOAUTH Authentication required.",
            };
            encode::error(out, text.as_bytes());
            return true;
        };
        self.said.push(format!("{user}/{} {}", account.database, words.join(" ")));
        if self.users.get(user).is_some_and(|user| user.denied.contains(&name)) {
            let name = name.to_lowercase();
            let text = format!("NOPERM this user has no permissions to run the '{name}' command");
            encode::error(out, text.as_bytes());
            return true;
        }
        match &name[..] {
            "ACL" => encode::bulk(out, user.as_bytes()),
            "SELECT" => match words[1].parse() {
                Ok(0) => {
                    account.database = 0;
                    encode::simple(out, b"OK");
                }
                _ if self.databases == 0 => {
                    encode::error(out, b"ERR SELECT is not allowed in cluster mode");
                }
                Ok(database) if (1..=self.databases).contains(&database) => {
                    account.database = database;
                    encode::simple(out, b"OK");
                }
                _ => encode::error(out, b"ERR DB index is out of range"),
            },
            _ => return false,
        }
        true
    }
}
