//! The server dies at each of its named points, with turns of every kind running; then everything has to come out as if
//! nothing had happened.

mod points;
mod scenario;
