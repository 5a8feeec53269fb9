package Worker::Slow;
use strict;
use warnings;
use base 'Qudo::Worker';
use Shop;

sub grab_for { 1 }

# With { deaf => 1 } only KILL ends it, and what it has started.
sub work {
    my ($class, $job) = @_;
    $SIG{TERM} = 'IGNORE' if $job->arg->{deaf};
    note(slow => $$);
    system 'sleep', 60;
    sleep 60;
}

1;
