#!/bin/sh
# What the image runs: make, with the image's arguments, unless a folder is wrong as only a container's can be.
set -eu

stop() {
    echo "error: $1" >&2
    exit 2
}

if [ -d outputs ] && [ ! -w outputs ]; then
    stop "/app/outputs belongs to $(stat -c %u:%g outputs), the container runs as $(id -u):$(id -g); create the folder \
before it is mounted and add --user \"\$(id -u):\$(id -g)\""
fi

for target in "$@"; do
    case "$target $*" in
    *data.* | *infer.images*) ;; # the pictures are elsewhere
    train\ * | infer\ *)
        [ -n "$(ls -A data 2>/dev/null)" ] ||
            stop "/app/data is empty; mount pictures there, -v \"\$PWD/data:/app/data\" (\`data SOURCE=synthetic\` in \
place of \`$target\` draws some)"
        ;;
    esac
    case $target in
    train | infer | demo)
        [ -d outputs ] || echo "note: /app/outputs is not mounted, so the results stay in this container" >&2
        ;;
    esac
done

exec make "$@"
