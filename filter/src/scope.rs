//! Which context the host's functions apply to while a callback runs.

/// The context that host calls apply to. At first it is the one that the callback is for; to change
/// it costs a call of the host, so it is changed only where another one is needed.
#[derive(Default)]
pub(crate) struct Scope {
    context: u32,
    /// The router whose client, or root context, it is known to be.
    root: Option<u32>,
}

impl Scope {
    /// A callback for `context` begins.
    pub(crate) fn at(context: u32) -> Self {
        Self { context, root: None }
    }

    /// Makes host calls apply to `context`, the root context `root` or a client of it.
    pub(crate) fn enter<E>(
        &mut self,
        root: u32,
        context: u32,
        set: impl FnOnce(u32) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.context != context {
            set(context)?;
        }
        *self = Self { context, root: Some(root) };
        Ok(())
    }

    /// Makes host calls apply to the root context `root` or to any client of it: streams, queue and
    /// timer are the root's whichever of them asks.
    pub(crate) fn enter_any<E>(
        &mut self,
        root: u32,
        set: impl FnOnce(u32) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.root == Some(root) { Ok(()) } else { self.enter(root, root, set) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 1;
    const CLIENT: u32 = 2;
    const OTHER_CLIENT: u32 = 3;
    const TUNNEL: u32 = 4;
    const OTHER_ROOT: u32 = 5;

    /// What the host is asked for.
    #[derive(Default)]
    struct Host(Vec<u32>);

    impl Host {
        fn set(&mut self) -> impl FnOnce(u32) -> Result<(), ()> {
            |context| {
                self.0.push(context);
                Ok(())
            }
        }
    }

    #[test]
    fn the_context_of_the_callback_needs_no_call() {
        let mut host = Host::default();
        let mut scope = Scope::at(CLIENT);
        scope.enter(ROOT, CLIENT, host.set()).unwrap();
        scope.enter_any(ROOT, host.set()).unwrap();
        assert!(host.0.is_empty());
    }

    #[test]
    fn a_root_context_in_its_own_callback_needs_no_call() {
        let mut host = Host::default();
        Scope::at(ROOT).enter_any(ROOT, host.set()).unwrap();
        assert!(host.0.is_empty());
    }

    #[test]
    fn each_change_of_context_is_one_call() {
        let mut host = Host::default();
        let mut scope = Scope::at(CLIENT);
        for context in [CLIENT, OTHER_CLIENT, OTHER_CLIENT, CLIENT, ROOT] {
            scope.enter(ROOT, context, host.set()).unwrap();
        }
        assert_eq!(host.0, [OTHER_CLIENT, CLIENT, ROOT]);
    }

    #[test]
    fn a_client_can_stand_for_its_root_but_a_tunnel_cannot() {
        let mut host = Host::default();
        let mut scope = Scope::at(TUNNEL);
        scope.enter(ROOT, CLIENT, host.set()).unwrap();
        scope.enter_any(ROOT, host.set()).unwrap();
        assert_eq!(host.0, [CLIENT]);
        Scope::at(TUNNEL).enter_any(ROOT, host.set()).unwrap();
        assert_eq!(host.0, [CLIENT, ROOT]);
    }

    #[test]
    fn a_client_cannot_stand_for_another_router() {
        let mut host = Host::default();
        let mut scope = Scope::at(CLIENT);
        scope.enter(ROOT, CLIENT, host.set()).unwrap();
        scope.enter_any(OTHER_ROOT, host.set()).unwrap();
        assert_eq!(host.0, [OTHER_ROOT]);
    }

    #[test]
    fn a_context_that_the_host_refuses_changes_nothing() {
        let mut host = Host::default();
        let mut scope = Scope::at(TUNNEL);
        assert_eq!(scope.enter(ROOT, CLIENT, |_| Err("gone")), Err("gone"));
        scope.enter_any(ROOT, host.set()).unwrap();
        assert_eq!(host.0, [ROOT]);
    }
}
