#!/usr/bin/env bash
# Installs a headless browser for the slow tests of HTML pages, only if there is none yet (Debian: root and apt-get).
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
  echo "chromium and chromedriver are here already"
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "No chromium and chromedriver on the PATH. This script installs them with apt-get, as root, on Debian; elsewhere" \
    "install Chromium and its driver yourself. Only the tests of HTML pages need them; they are skipped without." >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium chromium-driver
chromium --version
