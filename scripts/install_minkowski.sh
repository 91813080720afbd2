#!/usr/bin/env bash
# Build MinkowskiEngine for the CPU and install it into .venv: --model.sparse minkowski needs it.
#
#   scripts/install_minkowski.sh
#
# The build takes minutes. Its wheel is kept outside the checkout, by versions of Python and torch, and
# the next environment has it in seconds. Exit status 3: impossible here, and the last line says why.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh dev
package=MinkowskiEngine==0.5.4

impossible() {
    echo "error: $package cannot be built here: $*" >&2
    exit 3
}
works() { python -c 'import fcmae.sparse.minkowski'; } # that module knows what it needs first
install() { # the wheel kept in the cache
    python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
        "$cache"/*.whl
}
openblas() {
    echo '#include <cblas.h>
        int main() { return openblas_get_num_threads() < 0; }' |
        "$compiler" -x c++ - -o /dev/null -lopenblas 2>/dev/null
}

if works 2>/dev/null; then
    echo "$package is installed already"
    exit
fi

python -c 'import sys; sys.exit(sys.version_info >= (3, 12))' ||
    impossible "its setup.py imports numpy.distutils, which Python 3.12 no longer has, and this is" \
        "$(python --version); delete .venv and name an older one with PYTHON=python3.11 $0"
compiler=${CXX:-c++}
command -v "$compiler" >/dev/null ||
    impossible "no C++ compiler: $compiler is not found; install one (Debian: g++) or set CXX"
[ -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
    impossible "no Python.h; install the headers of $(python --version) (Debian: python3-dev)"
if ! openblas && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "== installing libopenblas-dev (apt-get)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq libopenblas-dev >/dev/null || true
fi
openblas || impossible "no OpenBLAS; as root: apt-get install libopenblas-dev"

# The compiled code is bound to these two; the wheel's name says the platform.
versions=$(python -c 'import sys, torch; print(f"{sys.implementation.cache_tag}-torch{torch.__version__}")')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fcmae/wheels/$versions
mkdir -p "$cache"
if install 2>/dev/null && works 2>/dev/null; then
    echo "$package is installed from $cache"
    exit
fi

echo "== building $package (minutes)"
work=$(mktemp -d "$cache/build-XXXXXX") # beside the wheel, so that a rename puts it in place whole
trap 'rm -rf "$work"' EXIT
# numpy.distutils, which finds the BLAS, breaks with later setuptools; .venv keeps its own.
python -m pip install --quiet --disable-pip-version-check --target "$work/tools" \
    'setuptools<81' wheel ninja
# No isolation: setup.py imports torch. No cache of pip's, which ignores torch's version. No GPU in
# sight: with one it would build for CUDA, and fails to with CUDA 13. Each job takes 1 to 2 GB.
CUDA_VISIBLE_DEVICES='' MAX_JOBS=${MAX_JOBS:-2} \
    PYTHONPATH=$work/tools PATH=$work/tools/bin:$PATH \
    python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-cache-dir \
    --no-deps --wheel-dir "$work/wheel" "$package" ||
    impossible "the compiler's or pip's complaint is above"
mv "$work"/wheel/*.whl "$cache"
install
works
echo "$package is installed, and kept in $cache"
