//! The app: configuration and handlers become running subscriptions.
