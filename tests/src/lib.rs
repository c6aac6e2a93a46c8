//! What the tests share: servers, ledgers, processes.
