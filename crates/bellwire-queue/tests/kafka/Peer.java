// The other side: what Kafka's own client writes and reads. Takes a command from each line and answers with lines, the last of which begins
// with `ok` or `error`.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

public class Peer {
    static String servers;
    static KafkaProducer<byte[], byte[]> producer;
    static final List<Future<RecordMetadata>> sent = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        servers = arguments[0];
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] words = line.split(" ");
            try {
                System.out.println("ok " + answer(words));
            } catch (Exception error) {
                System.out.println("error " + String.valueOf(error).replace('\n', ' '));
            }
            System.out.flush();
        }
        System.exit(0);
    }

    static String answer(String[] words) throws Exception {
        switch (words[0]) {
            case "topic": // NAME PARTITIONS COPIES, and settings
                try (Admin admin = Admin.create(settings())) {
                    var topic = new NewTopic(words[1], Integer.parseInt(words[2]), Short.parseShort(words[3]));
                    var own = new java.util.HashMap<String, String>();
                    for (int i = 4; i < words.length; i++) own.put(words[i].split("=")[0], words[i].split("=")[1]);
                    admin.createTopics(List.of(topic.configs(own))).all().get();
                }
                return "";
            case "placed": // NAME SETTINGS, and of each partition the brokers that have it, the first of which is to lead it: 1,2
                try (Admin admin = Admin.create(settings())) {
                    var placed = new java.util.HashMap<Integer, List<Integer>>();
                    for (int i = 3; i < words.length; i++) {
                        placed.put(i - 3, java.util.Arrays.stream(words[i].split(",")).map(Integer::valueOf).toList());
                    }
                    var own = new java.util.HashMap<String, String>();
                    for (var one : words[2].split(",")) own.put(one.split("=")[0], one.split("=")[1]);
                    admin.createTopics(List.of(new NewTopic(words[1], placed).configs(own))).all().get();
                }
                return "";
            case "delete": // NAME
                try (Admin admin = Admin.create(settings())) {
                    admin.deleteTopics(List.of(words[1])).all().get();
                }
                return "";
            case "grow": // NAME PARTITIONS
                try (Admin admin = Admin.create(settings())) {
                    admin.createPartitions(Map.of(words[1], NewPartitions.increaseTo(Integer.parseInt(words[2])))).all().get();
                }
                return "";
            case "forget": // NAME PARTITION OFFSET: as if it were too old
                try (Admin admin = Admin.create(settings())) {
                    var partition = new TopicPartition(words[1], Integer.parseInt(words[2]));
                    admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(Long.parseLong(words[3])))).all().get();
                }
                return "";
            case "producer": // COMPRESSION, and the name of its transactions
                if (producer != null) producer.close();
                Properties own = settings();
                own.put("compression.type", words[1]);
                own.put("linger.ms", "20");
                own.put("max.request.size", "100000000");
                own.put("buffer.memory", "100000000");
                own.put("key.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer");
                own.put("value.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer");
                if (words.length > 2) own.put("transactional.id", words[2]);
                producer = new KafkaProducer<>(own);
                if (words.length > 2) producer.initTransactions();
                return "";
            case "begin":
                producer.beginTransaction();
                return "";
            case "commit":
                producer.commitTransaction();
                return "";
            case "abort":
                producer.flush();
                producer.abortTransaction();
                return "";
            case "send": // TOPIC PARTITION KEY VALUE, and headers by twos: all but the topic and the partition in base64, - for none
                Integer place = words[2].equals("-") ? null : Integer.valueOf(words[2]);
                var record = new ProducerRecord<>(words[1], place, bytes(words[3]), bytes(words[4]));
                for (int i = 5; i + 1 < words.length; i += 2) {
                    record.headers().add(new String(bytes(words[i])), bytes(words[i + 1]));
                }
                sent.add(producer.send(record));
                return "";
            case "zeros": // TOPIC COUNT
                sent.add(producer.send(new ProducerRecord<>(words[1], 0, null, new byte[Integer.parseInt(words[2])])));
                return "";
            case "flush":
                producer.flush();
                for (var future : sent) future.get();
                sent.clear();
                return "";
            case "read": // TOPIC: all that is committed
                return String.valueOf(read(words[1]));
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    /** Prints partition, offset, key, value and headers, as `send` takes them. */
    static int read(String topic) {
        Properties own = settings();
        own.put("isolation.level", "read_committed");
        own.put("key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        own.put("value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        int count = 0;
        try (var consumer = new KafkaConsumer<byte[], byte[]>(own)) {
            var partitions = new ArrayList<TopicPartition>();
            for (PartitionInfo info : consumer.partitionsFor(topic)) partitions.add(new TopicPartition(topic, info.partition()));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            var ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    var line = new StringBuilder("record " + record.partition() + " " + record.offset());
                    line.append(" ").append(text(record.key())).append(" ").append(text(record.value()));
                    for (var header : record.headers()) {
                        line.append(" ").append(text(header.key().getBytes())).append(" ").append(text(header.value()));
                    }
                    System.out.println(line);
                    count++;
                }
            }
        }
        return count;
    }

    static Properties settings() {
        var own = new Properties();
        own.put("bootstrap.servers", servers);
        own.put("default.api.timeout.ms", "30000");
        return own;
    }

    static byte[] bytes(String word) {
        return word.equals("-") ? null : Base64.getDecoder().decode(word);
    }

    static String text(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }
}
