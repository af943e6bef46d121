#include <stdio.h>
#include "words.h"

int main(void) {
    /* Built with a fixed date, whenever it is built. */
    printf("%s, built on %s\n", greeting(), __DATE__);
    return 0;
}
