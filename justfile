# Shortcuts for commands; each also runs as written here, without just.

# Lists the recipes.
default:
    @just --list

# Installs what the tests need.
setup:
    scripts/setup

# Runs every check and test, as CI does.
test *stages:
    scripts/test {{stages}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Runs the tests that need nothing but Rust: the fast loop.
check *args:
    cargo nextest run --workspace {{args}}

doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace

deny:
    cargo deny check licenses bans sources

# Builds what is shipped: the program, licences, bill of materials and checksums.
dist:
    scripts/dist

# Runs real third-party clients against the real binary.
clients:
    scripts/test clients

# Builds the browser code into web/dist; `just web --check` only compares.
web *args:
    scripts/web {{args}}

# Tests the demo's page and the widget in a real browser.
browser:
    scripts/test browser

# Kills the real binary at each named point.
crash:
    scripts/test crash

# Runs the chaos test: users at work while the real binary is killed and loses its dependencies. --seconds, --seed, --store.
chaos *args:
    scripts/chaos {{args}}

# Runs the product on embedded defaults with a simulated outside world.
demo *args:
    cargo run --release -- demo {{args}}
