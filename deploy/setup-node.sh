#!/usr/bin/env bash
# Makes ~/rts, a virtual environment with Ray and the pinned third-party packages, on a node of a
# cluster. The cluster launcher puts pyproject.toml and constraints.txt beside this file. Packages to
# add on this node may be given as arguments. Does nothing again before any of these changes.
set -euo pipefail
cd "$(dirname "$0")"
chmod 600 ~/.ray/auth_token
# shellcheck disable=SC2016  # for the login shell to expand
grep -qs rts/bin ~/.bashrc ||
  echo 'export PATH="$HOME/rts/bin:$PATH" RAY_AUTH_MODE=token' >>~/.bashrc

asked=$(cat pyproject.toml constraints.txt && echo "$@")
[ "$asked" != "$(cat ~/rts/asked 2>/dev/null)" ] || exit 0
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/0.13.9/install.sh | sh
test -x ~/rts/bin/python || uv venv --quiet --python 3.11 ~/rts
uv pip install --quiet --python ~/rts/bin/python -r pyproject.toml -c constraints.txt "$@"
echo "$asked" >~/rts/asked
