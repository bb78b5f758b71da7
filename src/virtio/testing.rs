//! What tests of devices share.
