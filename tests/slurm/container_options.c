/* Accepts the srun options of pyxis and shows them to the task as PYXIS_<OPTION>, so that a job script with a container
 * runs unchanged where there is none. The task itself runs on the host, with the environment that a container would give
 * it: the image is a text file here, lines of NAME=VALUE, and these win over the job's unless --container-env names them;
 * an image of PyTorch's gets RANK and LOCAL_RANK, but not WORLD_SIZE. */
#include <ctype.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SPANK_PLUGIN(container_options, 1)

struct known { const char *name; int has_value; char *value; };

static struct known options[] = {
    {"container-image", 1, NULL}, {"container-env", 1, NULL}, {"container-mounts", 1, NULL},
    {"container-workdir", 1, NULL}, {"container-name", 1, NULL}, {"container-save", 1, NULL},
    {"container-mount-home", 0, NULL}, {"no-container-mount-home", 0, NULL}, {"container-writable", 0, NULL},
    {"container-readonly", 0, NULL}, {"container-remap-root", 0, NULL}, {"no-container-remap-root", 0, NULL},
    {"container-entrypoint", 0, NULL}, {"no-container-entrypoint", 0, NULL},
};
enum { IMAGE, ENVIRONMENT };
#define COUNT ((int)(sizeof options / sizeof options[0]))

static int remember(int index, const char *value, int remote) {
    (void)remote;
    if (index < 0 || index >= COUNT) return -1;
    free(options[index].value);
    options[index].value = strdup(value ? value : "1");
    return 0;
}

int slurm_spank_init(spank_t spank, int count, char **values) {
    (void)count;
    (void)values;
    for (int i = 0; i < COUNT; i++) {
        struct spank_option option = {(char *)options[i].name, options[i].has_value ? "VALUE" : NULL,
                                      (char *)"[stand-in for pyxis]", options[i].has_value, i, remember};
        if (spank_option_register(spank, &option) != ESPANK_SUCCESS) return -1;
    }
    return 0;
}

static int named(const char *list, const char *name) {
    size_t length = strlen(name);
    for (const char *at = list; at && (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length])) return 1;
    return 0;
}

static void copy(spank_t spank, const char *from, const char *to) {
    char value[32];
    if (spank_getenv(spank, from, value, sizeof value) == ESPANK_SUCCESS) spank_setenv(spank, to, value, 1);
}

static void image_environment(spank_t spank, const char *image, const char *kept) {
    char line[1024];
    FILE *file = fopen(image, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *value = strchr(line, '=');
        if (!value) continue;
        *value++ = 0;
        value[strcspn(value, "\n")] = 0;
        if (!named(kept, line)) spank_setenv(spank, line, value, 1);
        if (strcmp(line, "PYTORCH_VERSION")) continue;
        copy(spank, "SLURM_PROCID", "RANK");
        copy(spank, "SLURM_LOCALID", "LOCAL_RANK");
    }
    if (file) fclose(file);
}

int slurm_spank_task_init(spank_t spank, int count, char **values) {
    (void)count;
    (void)values;
    for (int i = 0; i < COUNT; i++) {
        if (!options[i].value) continue;
        char key[80];
        snprintf(key, sizeof key, "PYXIS_%s", options[i].name);
        for (char *c = key; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        spank_setenv(spank, key, options[i].value, 1);
    }
    if (options[IMAGE].value) image_environment(spank, options[IMAGE].value, options[ENVIRONMENT].value);
    return 0;
}
