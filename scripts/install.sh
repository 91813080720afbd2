# Sourced by check.sh and quickstart.sh: the environment .venv with the extra "$1", installed once.
# A stamp holds a hash of what decides the installation, so that a second call costs nothing.
extra=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) is too old: Python 3.11 or newer is needed;" \
        "name one with PYTHON=python3.12 $0" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
. .venv/bin/activate
stamp=.venv/installed-$extra
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "== installing into .venv (pip, extra \"$extra\")"
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]"
    echo "$wanted" >"$stamp"
fi
