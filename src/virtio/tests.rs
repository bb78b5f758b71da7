//! Tests of the transport, the queues and the worker.
