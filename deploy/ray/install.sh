#!/usr/bin/env bash
# Sparring on a host without an image: a virtual environment with the exact versions of constraints.txt and the wheel in
# dist/, both beside this file's folder. `ray up` runs it on every host each time; where all is there it does nothing.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$home/venv
constraints=$home/constraints.txt
wheels=("$home"/dist/sparring-*.whl)

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

[ ${#wheels[@]} = 1 ] && [ -f "${wheels[0]}" ] ||
  fail "$home/dist holds ${wheels[*]}; it must hold one wheel. Run 'make wheel' where you run 'ray up'."
wheel=${wheels[0]}

path_line="export PATH=$environment/bin:\$PATH"
# `ray down` and `ray exec` run `ray` in a login shell, which has to find it.
grep -qxF "$path_line" ~/.bashrc 2>/dev/null || echo "$path_line" >>~/.bashrc

# So do they ask for the token of ~/.ray/auth_token, and refuse to start without one.
token_line="export RAY_AUTH_MODE=token"
grep -qxF "$token_line" ~/.bashrc 2>/dev/null || echo "$token_line" >>~/.bashrc
if [ -f ~/.ray/auth_token ]; then chmod 600 ~/.ray/auth_token; fi

wanted=$(cat "$constraints" "$wheel" | sha256sum)
if [ "$(cat "$environment/.installed" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if [ ! -x "$environment/bin/python" ]; then
  python=$(command -v "${PYTHON:-python3.11}") || fail "no python3.11 on this host. Install it, with its venv module."
  "$python" -m venv "$environment"
fi
pip=("$environment/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install "$(grep '^torch==' "$constraints")"
"${pip[@]}" install --constraint "$constraints" "$wheel[cluster]"
"${pip[@]}" install --no-deps --force-reinstall "$wheel" # a wheel that changed may have kept its version
echo "$wanted" >"$environment/.installed"
