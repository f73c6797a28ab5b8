//! Who may use the proxy.

use crate::config::User;
use crate::errors::{NO_PASSWORD, WRONGPASS};

/// The user that AUTH with a password alone means (Redis ACL).
const DEFAULT: &[u8] = b"default";

/// Lets somebody in by a password alone, or says in Redis' words why not.
pub(crate) fn check_password(users: &[User], password: &[u8]) -> Result<(), &'static str> {
    if users.is_empty() {
        return Err(NO_PASSWORD);
    }
    check_user(users, DEFAULT, password)
}

/// Lets a user in, or says in Redis' words why not.
pub(crate) fn check_user(users: &[User], name: &[u8], password: &[u8]) -> Result<(), &'static str> {
    // Without users there is Redis' own default one, who takes any password.
    let nobody = users.is_empty() && name == DEFAULT;
    // All are compared, so that the time it takes does not tell which names there are.
    let known = users.iter().fold(false, |known, user| {
        let fits = user.passwords.iter().fold(false, |fits, secret| fits | secret.is(password));
        known | (fits & (user.name.as_bytes() == name))
    });
    if nobody || known { Ok(()) } else { Err(WRONGPASS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn users() -> Vec<User> {
        let user = |name: &str, passwords: &[&str]| User {
            name: name.to_owned(),
            passwords: passwords.iter().map(|p| Secret::new(p.as_bytes())).collect(),
        };
        vec![user("default", &["old", "new"]), user("alice", &["wonder"])]
    }

    #[test]
    fn any_of_a_user_s_passwords_lets_that_user_in() {
        assert_eq!(check_password(&users(), b"old"), Ok(()));
        assert_eq!(check_password(&users(), b"new"), Ok(()));
        assert_eq!(check_user(&users(), b"alice", b"wonder"), Ok(()));
        for (name, password) in [("alice", "old"), ("default", "wonder"), ("bob", ""), ("", "old")]
        {
            let result = check_user(&users(), name.as_bytes(), password.as_bytes());
            assert_eq!(result, Err(WRONGPASS), "{name}");
        }
        assert_eq!(check_password(&users()[1..], b"wonder"), Err(WRONGPASS), "no default user");
    }

    #[test]
    fn without_users_everybody_is_the_default_user() {
        assert_eq!(check_password(&[], b"x"), Err(NO_PASSWORD));
        assert_eq!(check_user(&[], b"default", b"x"), Ok(()));
        assert_eq!(check_user(&[], b"alice", b"x"), Err(WRONGPASS));
    }
}
