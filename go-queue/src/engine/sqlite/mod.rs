//! The SQLite engine: tasks and topics on one file, shared by any number of processes of one machine.
