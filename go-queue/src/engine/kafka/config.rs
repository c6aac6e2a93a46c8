//! What the engine needs to know, and how it becomes settings of the client.
