#!/bin/busybox sh
# The guest's first program: mounts the root file system that the host shares, with a file system in memory over it, and
# the session's directory, whose script is the rest.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs devtmpfs /dev
while read -r module; do $B insmod "/modules/$module" || echo "insmod $module failed"; done </modules/list
p9=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o $p9,ro,cache=loose root /lower
$B mount -t tmpfs tmpfs /upper
$B mkdir /upper/data /upper/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root
$B mount -t tmpfs tmpfs /root/tmp # Before the shares, which may lie below it.
$B mkdir -p /root/session
$B mount -t 9p -o $p9 session /root/session
while read -r tag path; do
    $B mkdir -p "/root$path"
    $B mount -t 9p -o $p9,ro,cache=loose "$tag" "/root$path"
done </root/session/shares
for directory in proc sys dev; do $B mount --move "/$directory" "/root/$directory"; done
exec $B chroot /root /bin/sh /session/run
