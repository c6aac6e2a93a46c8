//! Configuration: YAML as written, then resolved in one step with every error collected.
