/* A tiny PID 1 for tests: reports what the initramfs gave it, loads the modules in order, powers the machine off. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void print_file(const char *label, const char *path)
{
    char line[256];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        printf("%s%s\n", label, line);
    }
    if (file)
        fclose(file);
    else
        printf("%smissing\n", label);
}

static void print_node(const char *path)
{
    struct stat node;
    if (stat(path, &node) == 0)
        printf("node %s %o %u:%u\n", path, node.st_mode, major(node.st_rdev), minor(node.st_rdev));
}

static void load_modules(void)
{
    char path[256];
    FILE *list = fopen("/lib/modules/modules.load", "r");
    while (list && fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = 0;
        if (path[0] == '#')
            continue;
        int file = open(path, O_RDONLY);
        int bad = syscall(SYS_finit_module, file, "", 0);
        printf("module %s %s\n", path, bad ? strerror(errno) : "loaded");
        close(file);
    }
}

/* For each device below `path`: `LABEL VALUE`, the value being the first line of its file `attribute`. */
static void print_devices(const char *label, const char *path, const char *attribute)
{
    char name[512];
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.') {
            snprintf(name, sizeof name, "%s/%s/%s", path, entry->d_name, attribute);
            print_file(label, name);
        }
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("init started");
    print_file("sentinel ", "/etc/vector_boot.complete");
    print_node("/dev/console");
    print_node("/dev/null");
    print_node("/dev/kmsg");
    printf("mount proc %d\n", mount("proc", "/proc", "proc", 0, ""));
    printf("mount sys %d\n", mount("sys", "/sys", "sysfs", 0, ""));
    printf("mount dev %d\n", mount("dev", "/dev", "devtmpfs", 0, ""));
    print_file("release ", "/proc/sys/kernel/osrelease");
    print_file("", "/proc/meminfo");
    load_modules();
    print_devices("block ", "/sys/block", "serial");
    print_devices("port ", "/sys/class/virtio-ports", "name");
    print_file("rng ", "/sys/class/misc/hw_random/rng_current");
    puts("init done");
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}
