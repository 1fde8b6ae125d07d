//! The journal from outside: what was acknowledged is there, whatever happens to the folder.

mod damage;
mod lifecycle;
mod model;
mod search;
mod support;
