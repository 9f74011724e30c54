/* Accepts the srun options of pyxis and shows them to the task as PYXIS_<OPTION>, so that a job script with a container
 * runs unchanged where there is none. The task itself runs on the host. */
#include <ctype.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SPANK_PLUGIN(container_options, 1)

struct known { const char *name; int has_value; char *value; };

static struct known options[] = {
    {"container-image", 1, NULL}, {"container-mounts", 1, NULL}, {"container-workdir", 1, NULL},
    {"container-name", 1, NULL}, {"container-env", 1, NULL}, {"container-save", 1, NULL},
    {"container-mount-home", 0, NULL}, {"no-container-mount-home", 0, NULL}, {"container-writable", 0, NULL},
    {"container-readonly", 0, NULL}, {"container-remap-root", 0, NULL}, {"no-container-remap-root", 0, NULL},
    {"container-entrypoint", 0, NULL}, {"no-container-entrypoint", 0, NULL},
};
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
    return 0;
}
