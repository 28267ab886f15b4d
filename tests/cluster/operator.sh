#!/usr/bin/env bash
# Process 1 of the namespaces that hold two hosts and the machine that `ray up` is typed on. Arguments: WORK SITE.
# WORK holds a home for each of them (operator, head, worker), SITE is the site-packages folder of the tests' Python.
# A bridge joins them; when this process ends, all of it is gone.
set -euo pipefail
work=$1 site=$2

mount -t tmpfs tmpfs /mnt
mkdir /mnt/work /mnt/site /mnt/home
mount --bind "$work" /mnt/work
mount --bind "$site" /mnt/site
# Root's home is each host's own: Python itself may be installed in the real one.
printf 'root:x:0:0:root:/mnt/home:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n' >/mnt/passwd
mount --bind /mnt/passwd /etc/passwd
mount --bind /mnt/work/operator /mnt/home
for folder in /tmp /run /dev/shm; do
  mount -t tmpfs -o mode=1777 tmpfs "$folder"
done

hostname operator
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.1/24 dev bridge
ip link set bridge up
join() { # NAME ADDRESS
  unshare --net --pid --mount --uts --ipc --fork --mount-proc --kill-child \
    bash /mnt/work/operator/host.sh "$1" "$2" 10.77.0.1 >"/mnt/work/$1/host.log" 2>&1 &
  local host=$!
  until [ "$(readlink /proc/$host/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do
    sleep 0.05
  done
  ip link add "to-$1" type veth peer name eth0 netns "$host"
  ip link set "to-$1" master bridge up
}
join head 10.77.0.2
join worker 10.77.0.3
for address in 10.77.0.2 10.77.0.3; do
  until (: <>"/dev/tcp/$address/22") 2>/dev/null; do
    sleep 0.05
  done
done
touch /mnt/work/ready
wait
