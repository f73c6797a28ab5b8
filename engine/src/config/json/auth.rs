//! Who may use the proxy: `downstream_auth_*`, and beyond Envoy's one user, `users`.

use serde::Deserialize;

use super::super::{ConfigError, User};
use super::Reader;
use super::data_source::DataSource;
use super::field::Field;

/// The words that stand at the root.
pub(super) struct RawAuth {
    pub(super) downstream_auth_username: Option<DataSource>,
    pub(super) downstream_auth_password: Option<DataSource>,
    pub(super) downstream_auth_passwords: Option<Vec<DataSource>>,
    pub(super) users: Option<Vec<RawUser>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawUser {
    name: Option<String>,
    passwords: Option<Vec<DataSource>>,
}

impl RawAuth {
    pub(super) fn check(self, reader: &Reader<'_>) -> Result<Vec<User>, ConfigError> {
        let mut users = Vec::new();
        let name = Field::new("downstream_auth_username");
        let username = match self.downstream_auth_username {
            Some(source) => Some(utf8(source, &name, reader)?),
            None => None,
        };
        let mut passwords = Vec::new();
        if let Some(source) = self.downstream_auth_password {
            passwords.push(source.read(&Field::new("downstream_auth_password"), reader)?);
        }
        passwords.extend(
            Field::new("downstream_auth_passwords")
                .each(self.downstream_auth_passwords, |at, source| source.read(at, reader))?,
        );
        if !passwords.is_empty() {
            let name = username.unwrap_or_else(|| "default".to_owned());
            users.push(User { name, passwords });
        } else if username.is_some() {
            return Err(name.refuse("needs downstream_auth_passwords"));
        }
        Field::new("users").each(self.users, |at, user| {
            let user = user.check(at, reader)?;
            if users.iter().any(|other| other.name == user.name) {
                return Err(at.member("name").refuse(format!("'{}' is there twice", user.name)));
            }
            users.push(user);
            Ok(())
        })?;
        Ok(users)
    }
}

impl RawUser {
    fn check(self, at: &Field, reader: &Reader<'_>) -> Result<User, ConfigError> {
        let name = at.member("name");
        let name = name.required(name.not_empty(self.name)?)?;
        let at = at.member("passwords");
        let passwords = at.each(self.passwords, |at, source| source.read(at, reader))?;
        if passwords.is_empty() {
            return Err(at.refuse("needs at least one password"));
        }
        Ok(User { name, passwords })
    }
}

fn utf8(source: DataSource, at: &Field, reader: &Reader<'_>) -> Result<String, ConfigError> {
    let bytes = source.read(at, reader)?.reveal().to_vec();
    String::from_utf8(bytes).map_err(|_| at.refuse("is not UTF-8"))
}
