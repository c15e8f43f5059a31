// Where the functions of call.S are, found when they are first called.
//
// Compiled once per library, by make.sh, with
//   RESOLVE  the name of the one function here,
//   SONAME   the library, as the dynamic loader looks it up,
//   TOLD     whether somebody else says that the library is not there,
//   ABSENT   what its functions answer where the library cannot be loaded,
//   UNKNOWN  what they answer where it is there and has no such function: an older driver.
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct slot {
    void *function;
    const char *name;
};

static void *library;
static pthread_once_t opened = PTHREAD_ONCE_INIT;

// Said once, on standard error: the status alone does not tell which library is amiss, or why. Of the
// driver vlmd itself says so, and goes on without one.
static void open_library(void) {
    // Global: cuBLAS's own libraries look for each other's functions.
    library = dlopen(SONAME, RTLD_NOW | RTLD_GLOBAL);
    if (!library && !TOLD) fprintf(stderr, "vlmd: cannot load a library for CUDA: %s\n", dlerror());
}

static int absent(void) { return ABSENT; }
static int unknown(void) { return UNKNOWN; }
static const char *text(void) { return SONAME " is not there"; }

// Functions that give a text, not a status: a status would be read as an address.
static int gives_text(const char *name) {
    static const char *const endings[] = {"GetStatusName", "GetStatusString", "GetErrorString"};
    // The driver's functions of these names give a status and leave the text elsewhere.
    if (strncmp(name, "cu", 2) == 0 && name[2] >= 'A' && name[2] <= 'Z') return 0;
    const size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t end = strlen(endings[i]);
        if (length >= end && strcmp(name + length - end, endings[i]) == 0) return 1;
    }
    return 0;
}

__attribute__((visibility("hidden"))) void *RESOLVE(struct slot *slot) {
    pthread_once(&opened, open_library);
    void *function = library ? dlsym(library, slot->name) : NULL;
    if (!function) {
        function = gives_text(slot->name) ? (void *)(uintptr_t)text
                   : library              ? (void *)(uintptr_t)unknown
                                          : (void *)(uintptr_t)absent;
    }
    // Threads that come here together find the same.
    __atomic_store_n(&slot->function, function, __ATOMIC_RELEASE);
    return function;
}
