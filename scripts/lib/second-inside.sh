#!/usr/bin/env bash
# PID 1 of the second engine's namespaces; everything in them ends with it. Started by second.sh, never by hand.
#
#   second-inside.sh LIB RUN GID [--in-memory|''] FOLDER…
#
# The root becomes LIB/root; the folders of this machine that a container may mount are bound at their own places, the rest
# of this machine's file system is not there.
set -euo pipefail
lib=$1 run=$2 gid=$3 memory=$4
shift 4
root=$lib/root

mount --make-rprivate /
mount --bind "$root" "$root"

bind() { # bind FOLDER: at the same place, once
    local folder
    folder=$(readlink -f "$1") || return 0
    if ! [ -d "$folder" ]; then return 0; fi
    if [ -d "$root$folder" ] && [ "$(stat -c %d:%i "$folder")" = "$(stat -c %d:%i "$root$folder")" ]; then return 0; fi
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
}

for folder in /*; do
    case $folder in
        /bin | /boot | /dev | /etc | /lib | /lib[0-9x]* | /lost+found | /proc | /run | /sbin | /sys | /usr | /var) ;;
        *) if [ -d "$folder" ] && ! [ -L "$folder" ]; then bind "$folder"; fi ;;
    esac
done
for folder in /var/tmp "$@"; do bind "$folder"; done

mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/var/lib/docker" "$root/.before"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root$run"
mount --bind "$run" "$root$run"
if [ -n "$memory" ]; then mount -t tmpfs -o size=4g tmpfs "$root/var/lib/docker"; else mount --bind "$lib/data" "$root/var/lib/docker"; fi

cd "$root"
pivot_root . .before
umount -l /.before
hash -r
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
# Without a bridge, in a network of its own: one more engine on the machine's network takes the first one's bridge away.
dockerd --host "unix://$run/docker.sock" --group "$gid" --bridge=none --iptables=false --ip6tables=false &
wait $!
