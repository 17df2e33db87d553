/* PID 1 of a test: leaves a child that says on the console what the running machine looks like from inside, then becomes
 * the program. Each line of the child begins with "seen ". */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define WORKER_USER 1000

static void say_lines(const char *label, const char *path)
{
    char line[512];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        printf("seen %s %s\n", label, line);
    }
    if (file)
        fclose(file);
}

/* The process of the worker; 0 while there is none. */
static int find_worker(void)
{
    char path[64];
    struct stat status;
    struct dirent *entry;
    int found = 0;
    DIR *folder = opendir("/proc");
    while (folder && (entry = readdir(folder))) {
        snprintf(path, sizeof path, "/proc/%.32s", entry->d_name);
        if (isdigit(entry->d_name[0]) && stat(path, &status) == 0 && status.st_uid == WORKER_USER)
            found = atoi(entry->d_name);
    }
    if (folder)
        closedir(folder);
    return found;
}

static int filtered(int process)
{
    char path[64], line[256];
    int filter = 0;
    snprintf(path, sizeof path, "/proc/%d/status", process);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "Seccomp: %d", &filter);
    if (file)
        fclose(file);
    return filter == 2;
}

static void say_process(const char *label, int process)
{
    char path[64], name[64];
    for (int what = 0; what < 3; what++) {
        const char *file = (const char *[]){"status", "limits", "maps"}[what];
        snprintf(path, sizeof path, "/proc/%d/%s", process, file);
        snprintf(name, sizeof name, "%s %s", label, file);
        say_lines(name, path);
    }
}

static void say_result(const char *what, int result)
{
    printf("seen try %s %s\n", what, result < 0 ? strerror(errno) : "done");
}

/* What even root cannot do with the file systems as they are mounted. */
static void try_files(void)
{
    say_result("write-root", open("/new", O_WRONLY | O_CREAT, 0600));
    say_result("change-program", open("/program", O_WRONLY));
    say_result("write-sys", open("/sys/module/kernel/parameters/panic", O_WRONLY));
    say_result("make-device", mknod("/run/null", S_IFCHR | 0666, makedev(1, 3)));
    say_result("open-device", open("/run/null", O_RDONLY));
    int file = open("/run/script", O_WRONLY | O_CREAT, 0700);
    dprintf(file, "#!/program\n");
    close(file);
    say_result("execute-run", execl("/run/script", "script", NULL));
}

static void watch(void)
{
    int worker = 0;
    while (!worker || !filtered(worker)) {
        usleep(100000);
        worker = find_worker();
    }
    say_lines("mount", "/proc/mounts");
    say_process("supervisor", 1);
    say_process("worker", worker);
    try_files();
    puts("seen all");
}

int main(int count, char **words, char **environment)
{
    (void)count;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (fork() == 0) {
        watch();
        _exit(0);
    }
    return execve("/program", words, environment);
}
