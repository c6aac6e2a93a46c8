//! Tasks on beanstalkd: one node or several, each task on some of them.

mod alarm;
mod codec;
mod hold;
mod letter;
mod link;
mod node_end;
mod receive;
mod session;
