#!/usr/bin/env bash
# Process 1 of one host's namespaces, under operator.sh. Arguments: NAME ADDRESS GATEWAY.
set -euo pipefail
name=$1 address=$2 gateway=$3

hostname "$name"
mount --bind "/mnt/work/$name" /mnt/home
mount --bind /mnt/work/operator/sparring/venv /mnt/home/sparring/venv
# The names that docker compose gives to its services.
printf '127.0.0.1 localhost\n10.77.0.2 head redis\n10.77.0.3 worker\n' >"/mnt/$name.hosts"
mount --bind "/mnt/$name.hosts" /etc/hosts
for folder in /tmp /run /dev/shm; do
  mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
mkdir -m 755 /run/sshd /run/secrets

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do
  sleep 0.05
done
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
HOME=/mnt/home /usr/sbin/sshd -D -e -f /mnt/work/operator/sshd_config &
wait # this shell reaps what daemons leave behind
