//! Tasks on beanstalkd: one node or several, each task on some of them.
