//! The registry: which handlers there are. The only reader of the global list.

use super::HandlerDef;

/// What an attribute submits. Not for direct use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Registration(pub &'static HandlerDef);

inventory::collect!(Registration);

/// A selection of handlers, sorted by side, source and name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    defs: Vec<&'static HandlerDef>,
    explicit: bool,
}

impl Registry {
    /// All handlers of all crates that are linked into this program. A crate is linked only if a source line names it.
    pub fn global() -> Self {
        Self::sorted(
            inventory::iter::<Registration>()
                .map(|registration| registration.0)
                .collect(),
            false,
        )
    }

    /// These handlers and no others; see [`handlers!`](crate::handlers).
    pub fn of(defs: impl IntoIterator<Item = &'static HandlerDef>) -> Self {
        Self::sorted(defs.into_iter().collect(), true)
    }

    fn sorted(mut defs: Vec<&'static HandlerDef>, explicit: bool) -> Self {
        defs.sort_by_key(|def| {
            (
                def.source.side(),
                def.source.names(),
                def.module,
                def.name,
                def.location,
            )
        });
        Self { defs, explicit }
    }

    /// Only those for which `keep` is true.
    #[must_use]
    pub fn filter(mut self, mut keep: impl FnMut(&HandlerDef) -> bool) -> Self {
        self.defs.retain(|def| keep(def));
        self
    }

    /// The handlers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'static HandlerDef> + '_ {
        self.defs.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.defs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.defs.is_empty()
    }

    /// Whether somebody chose them with `handlers![..]`.
    pub fn is_explicit(&self) -> bool {
        self.explicit
    }
}

/// Chooses handlers by name: `App::new().handlers(handlers![billing::charge, remind])`. Naming a handler links its crate.
#[macro_export]
macro_rules! handlers {
    ($($handler:path),* $(,)?) => {
        $crate::handler::Registry::of([$(<$handler as $crate::handler::Registered>::DEF),*])
    };
}
