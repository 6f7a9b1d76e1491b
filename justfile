# Names for commands, nothing more: each can be run as it stands here, without just.

# Lists the recipes.
default:
    @just --list

# Installs what the tests need.
setup:
    scripts/setup

# Everything, as CI does it.
test *stages:
    scripts/test {{stages}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# The fast loop: the tests that need nothing but Rust.
check *args:
    cargo nextest run --workspace {{args}}

doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace

deny:
    cargo deny check licenses bans sources

# Real third-party clients against the real binary.
clients:
    scripts/test clients

# The demo's page in a real browser.
browser:
    scripts/test browser

# Kills the real binary at each named point.
crash:
    scripts/test crash

# Users on the real binary while it is killed and loses what it depends on: --seconds, --seed, --store.
chaos *args:
    scripts/chaos {{args}}

# The product on embedded defaults, the outside world simulated.
demo *args:
    cargo run --release -- demo {{args}}
