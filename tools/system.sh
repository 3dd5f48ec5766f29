#!/bin/sh
# Install the Debian packages named as arguments if they are missing: through apt-get as root, else say what to do.
set -eu
missing=""
for package in "$@"; do
    if command -v dpkg-query >/dev/null 2>&1; then
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing system packages:$missing"
    # shellcheck disable=SC2086
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
        >/dev/null; then
        exit 0
    fi
    echo "apt-get could not install them. Going on without:$missing (what needs them will say so)."
else
    echo "These system packages are missing:$missing. Install them: sudo apt-get install$missing"
    echo "(on another system: the libraries of the same names). Going on without them."
fi
