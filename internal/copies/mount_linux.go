package copies

import "syscall"

// pseudoFileSystems are those whose files are views of the kernel's data, by the magic numbers
// of statfs(2).
var pseudoFileSystems = map[int64]bool{
	0x9fa0:     true, // proc
	0x62656572: true, // sysfs
	0x27e0eb:   true, // cgroup
	0x63677270: true, // cgroup2
	0x1cd1:     true, // devpts
	0x64626720: true, // debugfs
	0x74726163: true, // tracefs
	0x73636673: true, // securityfs
	0x6165676c: true, // pstore
	0x62656570: true, // configfs
	0xcafe4a11: true, // bpf
	0x958458f6: true, // hugetlbfs
	0x19800202: true, // mqueue
	0x42494e4d: true, // binfmt_misc
	0xf97cff8c: true, // selinuxfs
	0xde5e81e4: true, // efivarfs
	0x6e736673: true, // nsfs
	0x65735543: true, // fusectl
}

func isPseudoFileSystem(dir string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && pseudoFileSystems[int64(stat.Type)&0xffffffff] //nolint:unconvert // int32 on some
}
